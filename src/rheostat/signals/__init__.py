"""What is measured during training, each with what it costs.

To add one, copy `norms.py`: a function of tensors that touches nothing and says its cost.
"""
