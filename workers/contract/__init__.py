"""What crosses processes: identifiers, names, wire forms, the gate and its Lua library."""
