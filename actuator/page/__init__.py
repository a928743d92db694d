"""The status page: what there is, what is being done, and what a person is asked, as HTML."""
