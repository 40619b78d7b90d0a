"""Token selection: from the visual tokens of a camera ring to the tokens that the language model sees.

Pure functions from features to keep masks. They know torch and nothing of models, ROS or settings files.

    >>> import torch
    >>> from stprune_ros.pruning.config import PruningConfig
    >>> from stprune_ros.pruning.pruner import SpatioTemporalPruner
    >>> from stprune_ros.pruning.view_tokens import ViewTokens
    >>> ring = ('FRONT_LEFT', 'FRONT', 'FRONT_RIGHT', 'BACK_RIGHT', 'BACK', 'BACK_LEFT')  # each right neighbour is next
    >>> features = {name: torch.randn(4, 14, 14, 64) for name in ring}  # (frames, rows, columns, D), oldest frame first
    >>> views = [ViewTokens(name, tokens, slots=(0, 1, 2, 3)) for name, tokens in features.items()]
    >>> masks = SpatioTemporalPruner(PruningConfig(keep_ratio=0.1))(views, history=4)  # per view bool (4, 14, 14)
    >>> kept = {view.name: view.tokens[mask] for view, mask in zip(views, masks)}  # (n, 64); views share the budget
    >>> sum(len(tokens) for tokens in kept.values())
    468
"""
