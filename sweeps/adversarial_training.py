"""Train on a pool of adversarial examples that is continuously refreshed, beside its baselines (section 4.1)."""

from advlab.studies.adversarial_training.study import AdversarialTraining
from advlab.studies.experiment import main

if __name__ == "__main__":
    main(AdversarialTraining)
