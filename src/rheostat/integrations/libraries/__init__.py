"""One file a library, named as the library is imported: importing it gives its classes keys.

The registry imports a file when a key of its library is asked for, and only where the library is
installed. To add one, copy `schedulefree.py`.
"""
