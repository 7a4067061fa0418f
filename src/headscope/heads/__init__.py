"""The method as pure tensor functions: windows, log masses, summaries of the bulk, decisions and what they read.

Code here takes tensors and numbers. It knows no model, no option of the workflow and no kernel; every other room may
import it. Families of interchangeable parts (criteria, estimators, outlier rules) have one file a member.
"""
