"""The main job: models, their adversarial examples, and what every model says to them."""
