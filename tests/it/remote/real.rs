//! Against real servers, started by the test.
