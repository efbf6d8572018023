"""What is no test here: the script that runs in Ray's own processes, and needs Ray to be imported."""

collect_ignore = ["cluster.py"]
