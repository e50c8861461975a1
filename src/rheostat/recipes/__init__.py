"""Recipes: everything about an optimizer as data, and `attach`, which binds one to a model.

`document` reads what people write (YAML, JSON) and knows where each key stands, `recipe`
checks and completes it, `schema` publishes what is allowed as JSON Schema, and `attach` gives
a run that a training loop steps. To give recipes a new key, add it to `recipe` (read, checked,
written out by `canonical`) and to `schema`; a test holds the two to the same answer.
"""
