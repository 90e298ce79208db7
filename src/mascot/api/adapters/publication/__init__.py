"""What a publication holds: files with weights, images by score, the card, and nothing private.

`contents` collects everything of a run, `card_usage` tells how each tool uses it, and `privacy`
removes what is nobody's business: photos' names and paths of this machine.

It may be imported by `api.adapters`, and imports every room below `api`.
"""
