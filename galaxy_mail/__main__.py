"""`python -m galaxy_mail` is the command `galaxy-mail`."""

from galaxy_mail.cli import main

if __name__ == "__main__":
    main(prog_name="galaxy-mail")
