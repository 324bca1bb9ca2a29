"""python -m bench.curves --data FOLDER --minutes 45: accuracy on test tasks against minutes of training.

fastmaml and learn2learn's loop train the same recipe on the same tasks for the same number of minutes each, in turns,
so that a machine that slows down slows both. At every mark of the clock (densest in the first minutes, when accuracy
rises) the learner is judged on the recipe's test tasks, which does not count as training. learn2learn adapts every
parameter, where the paper's recipe leaves out the shifts of batch norm; apart from that both train alike.

Writes accuracy.csv after every mark and accuracy.png into --out.
"""

from bench.environment import ensure_fair

if __name__ == "__main__":
    ensure_fair("bench.curves")  # before torch is imported

    from bench.race import main

    main()
