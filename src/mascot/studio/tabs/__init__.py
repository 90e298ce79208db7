"""The tabs of the page, one file each: fields, and what happens when a button is pressed.

A tab asks the verbs of `api` and shows what they return; nothing here computes. `page` puts the
tabs together. Texts come from the table of words, and every text of a user's is escaped.
"""
