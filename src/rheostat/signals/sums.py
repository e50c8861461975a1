"""All sums of one look at the parameters, in one pass of C++ over them where they lie.

Without it each inner product is a call of its own, and reads its vectors again.
"""
