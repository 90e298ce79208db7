"""Jobs of the studio: commands of mascot that run in processes of their own.

A job is a folder: what was asked, the events of `storage/event_log.py`, and what the command
printed. So a closed tab and a restarted server find everything again. One job at a time runs on a
device. Nothing here knows the page.
"""
