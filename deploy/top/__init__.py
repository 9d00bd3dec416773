"""The live view, `tidegate top`: readings → figures → a frame of lines.

sources     where to ask, and one call of each          watching   a thread for each source
reading     what a source said, and when                numbers    rates and quantiles over readings
figures     all that is shown, as one object            model      numbers → figures
history     figures of the last minutes                 pen        figures → words, bars, sparklines
page        figures → lines of a given size             keys       what a key changes
terminal    keyboard and screen of a terminal           live       the loop that draws

Only `sources`, `watching`, `terminal` and `live` do I/O.
"""
