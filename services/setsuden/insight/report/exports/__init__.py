"""The report in other people's formats; each file can be read without Setsuden."""
