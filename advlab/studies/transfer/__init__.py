"""The transfer study: models, their adversarial examples, and every model's predictions for them."""
