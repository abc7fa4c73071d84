//! Compound steps.
