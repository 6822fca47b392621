//! Integration tests; one binary.

mod managed_server;
