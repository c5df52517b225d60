"""Train on a continuously refreshed pool of adversarial examples, and compare with baselines (section 4.1)."""

from advlab.studies.adversarial_training.study import AdversarialTraining
from advlab.studies.experiment import main

if __name__ == "__main__":
    main(AdversarialTraining)
