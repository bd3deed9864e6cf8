"""What can be learnt about records from all that a federation shows: membership inference, and canaries that
bound epsilon from below.
"""
