//! netns programs.
#![no_std]
#![no_main]
