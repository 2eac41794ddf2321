"""How shards are spread over workers: one module each, with one function run().

run(work, shards, advance) calls work(shards, advance) in whatever process, for whatever part of
the shards, until each of them is committed; advance(images) tells the progress.
"""
