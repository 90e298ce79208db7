"""What a publication holds: files with weights, images by score, the card, and nothing private.

`contents` collects everything of a run: `gallery` its images, `card` and `card_usage` the model
card. `written_header` makes the header of a file for other tools, of a conversion too. `privacy`
removes photos' names and paths of this machine.

It may be imported by `api.adapters`, and imports every room below `api`.
"""
