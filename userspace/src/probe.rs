//! What the machine can do: privileges, kernel features, ports in use.
