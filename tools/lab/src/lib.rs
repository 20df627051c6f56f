//! A laboratory of virtual machines, network namespaces and captured wires, for demos and tests.
