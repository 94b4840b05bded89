"""From a target's residual to an explainer's of another width: drawn, learned, or fitted on text.

    drawn     random matrices: directions kept, or as a fresh linear layer of torch has them
    pairing   one text in the tokens of two models, and which of them end at the same character
    states    what both models hold there
    ridge     the linear map between them, from sums over the states
    fit       all of it: texts in, a measured projection out
    files     a projection, and its folder

The explainer reads a vector `v` of target layer `l` as `unit(v) @ matrices[l]`, times a length that
is chosen where it is injected.
"""
