"""python -m bench.passes --case NAME: what every pass over every layer of the C++ core takes."""

from bench.environment import ensure_fair

if __name__ == "__main__":
    ensure_fair("bench.passes")  # before torch is imported

    from bench.pass_times import main

    main()
