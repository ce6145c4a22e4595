//! Tests with small models.
