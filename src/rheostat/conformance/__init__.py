"""The contract as a suite for anyone's optimizer, clause by clause.

`subject` is what is examined and how it is trained; `clauses` are the sentences of the contract,
each a function that raises `Broken` where its sentence does not hold, and `check` runs them. To
add a clause, copy one in the file of its family (`steps`, `state`, `inputs`).
"""
