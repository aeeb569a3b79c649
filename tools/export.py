"""`mmfocal export` as a script."""

from mmfocal.cli import run_script

if __name__ == '__main__':
    run_script(__file__, 'export')
