"""Architecture search: spaces of networks, what a network costs, cheap predictors of its quality, and the search.

A network is a typed spec, e.g. `conv_space.ConvSpec`. Its JSON form is the parameters of the component `searched_cnn`
or `searched_transformer`, so a searched network is trained, exported and served like any model. Specs, spaces and their
costs need no torch. `proxies` and `cost` do, and `search` needs Optuna (the extra `search`).
"""
