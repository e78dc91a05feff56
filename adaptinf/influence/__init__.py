"""Which samples made the model what it is: inverse-Hessian products, unlearning, demonstrations, targeted ranking."""
