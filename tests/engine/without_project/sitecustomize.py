"""On the PYTHONPATH of a machine, this makes it one on which the project is not installed."""

import sys


class Hide:
    """Python does not find advlab."""

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
        if name.partition(".")[0] == "advlab":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Hide())
