"""Features: directions in a model's activations, what excites them, and what they mean.

    dictionaries   sparse autoencoders and transcoders of every published layout, in one form
    training       dictionaries trained on a stream of activations, many at once
    exemplars      the texts that excite a direction, for thousands in one pass
    descriptions   directions in words: measured, asked of a chat model, or published
    scores         how true a description is, by what can be predicted from it

A direction is anything with a reader: a latent, a neuron, an activation, a difference of two.
"""
