"""The base class of all algorithms, and the base classes and functions that families of them share."""
