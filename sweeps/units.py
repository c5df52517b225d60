"""Find the images that most stimulate units and other directions, and test whether units differ: Figures 1 to 4."""

from advlab.studies.directions.study import Units
from advlab.studies.experiment import main

if __name__ == "__main__":
    main(Units)
