"""python -m bench.cpu: one exact second-order meta-gradient on the CPU, ours against the rivals, in one run."""

from bench.environment import ensure_fair

if __name__ == "__main__":
    ensure_fair("bench.cpu")  # before torch is imported

    from bench.comparison import main

    main()
