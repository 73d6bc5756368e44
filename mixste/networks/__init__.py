"""The networks of the study: MixSTE and its peers, one file each."""
