"""The paper's experiments, whole, in one folder, and a page that holds their numbers beside the printed ones."""

from advlab.studies.experiment import main
from advlab.studies.paper.study import Paper

if __name__ == "__main__":
    main(Paper)
