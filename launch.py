"""Run one job, or a sweep of jobs, and print a table: python launch.py [group=option] [key=value] [-m key=a,b,c]"""

import sys

from nuwa.launch import main

if __name__ == "__main__":
    sys.exit(main())
