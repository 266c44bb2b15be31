"""Jobs of several processes in which one of them is to blame: who, they know themselves.

``play.py`` begins the processes of one scenario, ``cast.py`` is what each of them does. The web search is
outside of what is observed, as it is in life.
"""
