-- Start a new epoch if the primary changed. KEYS: partition. ARGV: run. Returns epoch, sequence.
local epoch, sequence = open_partition(KEYS[1], ARGV[1])
return {epoch, sequence}
