//! host memory
