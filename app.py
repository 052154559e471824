"""The analysts' app: `evaluator app`; `streamlit run app.py` in the folder of the store shows the same to read."""

import streamlit as st

from evaluator.ui import ICON, PAGES, open_frame

st.set_page_config(page_icon=ICON, layout="wide")
page = st.navigation([st.Page(run, **settings) for run, settings in PAGES], position="top")
open_frame(page.title, page.run)
