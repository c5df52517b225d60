"""All experiments of the paper, in one folder, and a page with their numbers beside the printed ones."""

from advlab.studies.experiment import main
from advlab.studies.paper.study import Paper

if __name__ == "__main__":
    main(Paper)
