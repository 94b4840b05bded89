"""Questions asked now: made from what somebody types, and answered for certain by an experiment.

A trace draws its questions and keeps their answers; here one question is made to order, in the very
words of a trace, and its answer is found only if it is asked for.
"""
