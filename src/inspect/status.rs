//! inspect status
