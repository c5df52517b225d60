"""The images that stimulate units and other directions of a layer most, and whether units differ: Figures 1 to 4."""

from advlab.studies.directions.study import Units
from advlab.studies.experiment import main

if __name__ == "__main__":
    main(Units)
