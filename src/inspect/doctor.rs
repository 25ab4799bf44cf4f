//! inspect doctor
