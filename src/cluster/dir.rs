//! cluster dir
