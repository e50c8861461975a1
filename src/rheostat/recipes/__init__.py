"""Recipes: everything about an optimizer as data, and `attach`, which binds one to a model.

`formats` reads what people write and `layers` merges it; `grammar` checks and completes it, with
`reader` for values and `schedule_data` for schedules, into `parts`; `build` makes what runs and
`origins` goes the way back. `fit` and `fit_model` find what does not fit together, `explain` shows
what a recipe does to a model, and `recipe_schema` publishes what is allowed. To give recipes a new
key, add it to `grammar`, `parts` and `recipe_schema`; a test holds the checks and the schema to the
same answer.
"""
