"""Published annotation formats to label files and back; `datasets/prepare_*.py` are the commands."""
